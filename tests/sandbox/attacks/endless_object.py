# An object that makes attributes without end meets the clock or the limit.
# judge: call script
# limits: wall_seconds=1.5 cpu_seconds=1.0
class Endless:
    def __init__(self): self.x = 1
    @property
    def __dict__(self): return {"next": Endless()}
def f(x):
    return Endless()
