"""Tables, figures and a response browser of judged runs, as one HTML page, Markdown and CSV."""
