"""HTTP for operators: health, metrics, a JSON API and a page. Sees frozen views only."""
