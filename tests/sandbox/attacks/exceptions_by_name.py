# Also by the names of exceptions that end interpreters or generators.
# judge: call script
def f(x):
    raise type("GeneratorExit" if x == 1 else "SystemExit", (Exception,), {})(0)
