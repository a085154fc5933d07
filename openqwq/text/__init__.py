"""Tokens and text: tokenizer, chat template, think/tool state machine."""
