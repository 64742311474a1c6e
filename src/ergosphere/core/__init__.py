"""Pure: nouns, lifecycle tables and judgement. No I/O, no clock, no dice."""
