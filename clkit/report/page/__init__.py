"""The HTML page of runs (`clkit report`): what it shows is gathered here, and laid out by `templates/`."""
