"""From teacher to hybrid and back: convert, export, distill."""
