"""kubectl tuneyard: a plugin of kubectl."""
