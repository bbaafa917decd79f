"""The dashboard: runs, their findings and their insides in a browser, from the same evidence as the report, while they train and after.

`shelf` finds what there is, `views` says what a page shows, `app` answers requests. Pages are made of a report's parts
(`recspect.report.content`), so that what a diagnostic adds appears here without a page of its own.
"""
