"""`trainvitals alerts drill`: each alert's real condition made to happen, and whether somebody is told."""
