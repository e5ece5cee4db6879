"""The command line: parse, call, print. With ``config.py`` the only code that prints or reads environment and home."""
