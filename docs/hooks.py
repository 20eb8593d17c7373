"""What the site does with links out of docs/: they lead into the repository, if its address is set.

The pages are written to be read in the repository as they are, where `../rft_jax/step.py` is a
file. On the site it is one at `repo_url` of mkdocs.yml, or without that just the text.
"""

import re

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown, *, config, **_):
    """Rewrites the links of one page."""
    if config.repo_url:
        return LINK.sub(rf"[\1]({config.repo_url.rstrip('/')}/blob/HEAD/\2)", markdown)
    return LINK.sub(r"\1", markdown)
