"""People and programs come in here: the page, the service, many pictures at once."""
