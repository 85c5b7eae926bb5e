"""Alerts: rules over what the bus and the health of the processes say, delivered to targets.

config_alerts   the section `alerts` of the configuration
check           rules and targets that cannot work, found before the start
rules           which alerts stand: no I/O, no clock
samples         the premiums of the last hours and months, for percentiles
outbox          what is to be delivered, kept on disk
forms           messages as a webhook, Telegram and Slack take them
delivery        HTTP requests, one target after the other's time
worker          `coinspace alerter`
commands        `coinspace alerts`
"""
