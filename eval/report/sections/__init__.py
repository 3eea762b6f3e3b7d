"""The tables of a report, one file a subject, and the columns that they share (`columns`)."""
