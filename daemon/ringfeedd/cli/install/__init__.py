"""`ringfeed install-service`: the daemon as a systemd service, installed from the package.

`host` reads what the plan depends on, `trust` refuses a command that other users control, `files` makes the texts,
`plan` decides, `steps` carries out, and `command` is the command line.
"""
