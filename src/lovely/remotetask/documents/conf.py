"""Sphinx's configuration: `python -m sphinx -W src/lovely/remotetask/documents OUTPUT` makes pages of the documents."""
# SPDX-License-Identifier: ZPL-2.1
import importlib.metadata
import os
import re

from docutils import nodes


project = 'lovely.remotetask'
release = importlib.metadata.version(project)
copyright = 'Zope Community'
html_theme = 'alabaster'
html_theme_options = {'description': 'Durable remote tasks on the ZODB', 'page_width': '1160px',
                      'sidebar_width': '310px'}
html_show_sourcelink = False

extensions = ['sphinx.ext.autodoc', 'sphinxcontrib.zopeext.autointerface']
source_suffix = {'.txt': 'restructuredtext'}
root_doc = 'index'
autodoc_member_order = 'bysource'

# What stands in single backticks is code, here and in the docstrings.
default_role = 'code'

_ARGUMENT = re.compile(r'[*\w, ]+ -- ')


def _listArguments(app, what, name, obj, options, lines):
    """Make a list of what a docstring says of arguments, in lines like `name -- what it is`."""
    listed, isItem = [], False
    for line in lines:
        if _ARGUMENT.match(line):
            listed += ([] if isItem else ['']) + ['* ' + line]
            isItem = True
        elif isItem and line.startswith('    '):
            listed.append('  ' + line.lstrip())
        else:
            listed += ([''] if isItem and line else []) + [line]
            isItem = False
    lines[:] = listed


def _linkDocuments(app, doctree, docname):
    """Make a link of each document that is named as a file, as in ``tasks.txt``."""
    for literal in list(doctree.findall(nodes.literal)):
        name, extension = os.path.splitext(literal.astext())
        if extension == '.txt' and name in app.env.found_docs and name != docname:
            link = nodes.reference(internal=True, refuri=app.builder.get_relative_uri(docname, name))
            literal.replace_self(link)
            link += literal


def setup(app):
    """Register what is above with Sphinx."""
    app.connect('doctree-resolved', _linkDocuments)
    app.connect('autodoc-process-docstring', _listArguments)
