"""Reports for people, from the templates in templates/."""
