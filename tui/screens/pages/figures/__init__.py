"""The pages of statistics: types, trends and series. None is imported before the first paint."""
