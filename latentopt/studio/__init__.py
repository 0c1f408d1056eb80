"""The page in the browser and its server: pictures inverted, edited and compared by looking at them."""
