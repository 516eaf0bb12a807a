"""Write the pages and drawings that are made from the source: ``python -m tests.docs``."""

from . import DOCS, drawings, generated

for name, text in generated().items():
    (DOCS / name).write_text(text)
    print(DOCS / name)
for path in drawings.draw_all(DOCS):
    print(path)
