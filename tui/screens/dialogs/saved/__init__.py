"""The dialogs for what a person saves: a filter under a name, and the columns of a tab."""
