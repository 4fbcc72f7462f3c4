"""The text of the pages of types, trends and series. Pure; every foreign text is cleaned and masked here."""
