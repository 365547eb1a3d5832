"""The small teacher and its tokenizer that the demo and the tests run on."""
