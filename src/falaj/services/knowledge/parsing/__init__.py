"""Documents as text: exactly the text that citations point into, with a title and where its headings stand."""
