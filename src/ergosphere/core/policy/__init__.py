"""The judgement: pure functions from what is seen to what shall be done."""
