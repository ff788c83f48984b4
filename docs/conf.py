"""Sphinx: how the documentation becomes a site. `make site` builds it, offline and strict, into build/site."""

project = "Arbiter"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Quotes and ellipses only: two hyphens begin an option, and are no dash.
smartquotes_action = "qe"
exclude_patterns = ["changes.d"]
html_theme = "furo"
html_title = "Arbiter"
html_show_copyright = False
html_theme_options = {"sidebar_hide_name": False}
# Long words in settings, like paths, must not widen the page on a telephone.
html_static_path = ["static"]
html_css_files = ["site.css"]
