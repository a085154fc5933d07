"""Text of models and data sets, made fit for a terminal and a page."""

# Control characters, C1's too, except line ends and tabs: a terminal would obey them.
PICTURES = {i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"}
PICTURES |= {127: 0x2421} | dict.fromkeys(range(128, 160), 65533)


def visible(text: str) -> str:
    """The text with a picture in the place of each control character."""
    return text.translate(PICTURES)
