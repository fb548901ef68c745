"""What a run came to, for people: the HTML page and the table in the terminal."""
