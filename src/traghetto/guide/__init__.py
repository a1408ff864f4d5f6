"""What a person is told about the errors, beyond the table itself: how each is provoked."""
