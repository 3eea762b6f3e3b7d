"""What a person at a terminal is told: faults of the user's input, one line each (`errors`), progress
(`progress`), tables (`table`), and which options were chosen (`given`)."""
