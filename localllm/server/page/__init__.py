"""Style and script of the page at ``/``; a package only so that they are packed with it."""
