"""The columns of Kumo's outputs that the package knows by name."""

ENTITY = "ENTITY"
ANCHOR_TIMESTAMP = "ANCHOR_TIMESTAMP"
CLASS, SCORE = "CLASS", "SCORE"
TARGET_PRED, TRUE_PROB = "TARGET_PRED", "True_PROB"
SCORE_COLUMNS = (TRUE_PROB, SCORE, "False_PROB", TARGET_PRED)
"""Where scores are, the most telling column first."""
CLASS_COLUMNS = (CLASS, TARGET_PRED)
"""Where classes are, the most telling column first."""
