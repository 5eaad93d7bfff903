"""What a class uses: lessons, the museum of bugs, widgets, the hand-over to TRL, the confirmation on a GPU."""
