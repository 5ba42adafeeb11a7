"""The diagnoses of a report, one file for each subject."""
