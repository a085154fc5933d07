"""A tiny environment written against `verifiers` 0.4: products, with a tool that multiplies."""

import verifiers.v1 as vf


class Numbers(vf.TaskData):
    answer: int


class Calculator(vf.Toolset[vf.SharedToolsetConfig]):
    """Serves one tool."""

    @vf.tool
    async def multiply(self, a: int, b: int) -> str:
        """Multiply two numbers."""
        return str(a * b)


class Product(vf.Task[Numbers]):
    """Right where the last reply holds the product."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(str(self.data.answer) in trace.last_reply)

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class ProductsConfig(vf.TasksetConfig):
    count: int = 5
    tools: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class Products(vf.Taskset[Product, ProductsConfig]):
    @classmethod
    def toolsets(cls, config: ProductsConfig) -> list[vf.Toolset]:
        return [Calculator(config.tools)]

    def load(self) -> list[Product]:
        tasks: list[Product] = []
        for n in range(self.config.count):
            prompt = f"What is {n + 2} * 7?"
            data = Numbers(prompt=prompt, system_prompt="Use the tool.", answer=(n + 2) * 7)
            tasks.append(Product(data, self.config.task))
        return tasks


__all__ = ["Products"]

if __name__ == "__main__":  # how the package starts the tool server
    Calculator.run()
