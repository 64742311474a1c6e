"""Thin routes: parse, ask the room, answer. No judgement and no SQL here."""
