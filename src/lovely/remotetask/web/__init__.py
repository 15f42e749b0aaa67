"""Pages for people, metrics and health for machines: one WSGI application over the database.

`application` makes the WSGI callable and says which path leads where.  `context` has what a page is made from: the
caller, the service, the time; `security` finds out who the caller is, and whether a change really comes from one of our
pages.  A module whose name ends in `pages` gathers what its template shows; `actions` has the verbs of the buttons,
`forms` and `scheduleforms` the fields of forms, `charts`, `words` and `formats` how things look.  `server` listens,
where no other WSGI server does; `pipeline` stands before an application, such as Zope, in its server.

The extra "web" of the package has what this needs; nothing else in the package does.
"""
# SPDX-License-Identifier: ZPL-2.1
