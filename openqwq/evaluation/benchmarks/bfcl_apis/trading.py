"""TradingBot: an account that buys and sells a handful of stocks."""

from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import require

Result = dict[str, Any]
NOW = "10:30 AM"
SECTORS = {
    "Technology": ["AAPL", "GOOG", "MSFT", "NVDA"],
    "Automobile": ["TSLA", "F", "GM"],
}
SYMBOLS = {
    "Apple": "AAPL",
    "Google": "GOOG",
    "Tesla": "TSLA",
    "Microsoft": "MSFT",
    "Nvidia": "NVDA",
    "Zeta Corp": "ZETA",
    "Alpha Tech": "ALPH",
    "Omega Industries": "OMEG",
    "Quasar Ltd.": "QUAS",
    "Neptune Systems": "NEPT",
    "Synex Solutions": "SYNX",
    "Amazon": "AMZN",
}
PRICES = {  # price, change in percent, volume, 5- and 20-day averages
    "AAPL": (227.16, 0.17, 2.552, 227.11, 227.09),
    "GOOG": (2840.34, 0.24, 1.123, 2835.67, 2842.15),
    "TSLA": (667.92, -0.12, 1.654, 671.15, 668.20),
    "MSFT": (310.23, 0.09, 3.234, 309.88, 310.11),
    "NVDA": (220.34, 0.34, 1.234, 220.45, 220.67),
}
ORDERS = {
    12446: {
        "id": 12446, "order_type": "Sell", "symbol": "GOOG", "price": 2840.56, "amount": 5,
        "status": "Pending",
    },
}  # fmt: skip
FIELDS = ("price", "percent_change", "volume", "MA(5)", "MA(20)")


class Trading:
    """Orders are keyed by their number; some scenarios keep other entries beside them."""

    def __init__(self, config: dict[str, Any]) -> None:
        orders = config.get("orders", {number: dict(order) for number, order in ORDERS.items()})
        self.orders = {int(k) if str(k).isdecimal() else k: v for k, v in orders.items()}
        self.account_info: Result = config.get(
            "account_info", {"account_id": 12345, "balance": 10000.0, "binding_card": 0}
        )
        self.authenticated: bool = config.get("authenticated", False)
        self.market_status: str = config.get("market_status", "Closed")
        self.order_counter: int = config.get("order_counter", 12447)
        listed = {name: dict(zip(FIELDS, row, strict=True)) for name, row in PRICES.items()}
        self.stocks: dict[str, Result] = config.get("stocks", listed)
        self.watch_list: list[str] = config.get("watch_list", ["NVDA"])
        self.transaction_history: list[Result] = config.get("transaction_history", [])

    def _require_login(self) -> None:
        require(self.authenticated, "User not authenticated. Please log in first.")

    def _stock(self, symbol: str) -> Result:
        require(symbol in self.stocks, f"Stock with symbol '{symbol}' not found.")
        return self.stocks[symbol]

    def _order(self, order_id: int) -> Result:
        known = isinstance(order_id, int) and order_id in self.orders
        require(known, f"Order with ID {order_id} not found.")
        order: Result = self.orders[order_id]
        return order

    def _trading_login(self, username: str, password: str) -> Result:
        require(username and password, "Give a user name and a password.")
        if self.authenticated:
            return {"status": "Already logged in"}
        self.authenticated = True
        return {"status": "Logged in successfully"}

    def _trading_logout(self) -> Result:
        was_in, self.authenticated = self.authenticated, False
        return {"status": "Logged out successfully" if was_in else "No user is logged in"}

    def _trading_get_login_status(self) -> Result:
        return {"status": bool(self.authenticated)}

    def _get_current_time(self) -> Result:
        return {"current_time": NOW}

    def _get_symbol_by_name(self, name: str) -> Result:
        return {"symbol": SYMBOLS.get(name, "Stock not found")}

    def _get_stock_info(self, symbol: str) -> Result:
        return dict(self._stock(symbol))

    def _get_available_stocks(self, sector: str) -> Result:
        require(sector in SECTORS, f"Sector '{sector}' not found.")
        return {"stock_list": SECTORS[sector]}

    def _filter_stocks_by_price(
        self, stocks: list[str], min_price: float, max_price: float
    ) -> Result:
        kept = [s for s in stocks if min_price <= self._stock(s)["price"] <= max_price]
        return {"filtered_stocks": kept}

    def _notify_price_change(self, stocks: list[str], threshold: float) -> Result:
        moved = [s for s in stocks if abs(self._stock(s)["percent_change"]) >= threshold]
        if not moved:
            return {"notification": "No significant price changes in the selected stocks."}
        return {"notification": f"Stocks {', '.join(moved)} have significant price changes."}

    def _get_account_info(self) -> Result:
        self._require_login()
        return dict(self.account_info)

    def _fund_account(self, amount: float) -> Result:
        self._require_login()
        require(amount > 0, "Funding amount must be positive.")
        self._move(amount, "deposit")
        return {
            "status": "Account funded successfully",
            "new_balance": self.account_info["balance"],
        }

    def _withdraw_funds(self, amount: float) -> Result:
        self._require_login()
        require(amount > 0, "Withdrawal amount must be positive.")
        require(amount <= self.account_info["balance"], "Insufficient balance.")
        self._move(-amount, "withdrawal")
        return {
            "status": "Withdrawal successful",
            "new_balance": self.account_info["balance"],
        }

    def _move(self, amount: float, kind: str) -> None:
        self.account_info["balance"] += amount
        entry = {"type": kind, "amount": abs(amount), "timestamp": f"2024-09-01 {NOW}"}
        self.transaction_history.append(entry)

    def _place_order(self, order_type: str, symbol: str, price: float, amount: int) -> Result:
        self._require_login()
        self._stock(symbol)
        require(order_type in ("Buy", "Sell"), "Order type must be Buy or Sell.")
        require(price > 0 and amount > 0, "Price and amount must be positive.")
        number = self.order_counter
        order = {"order_type": order_type, "symbol": symbol, "price": float(price)}
        self.orders[number] = {"id": number, **order, "amount": amount, "status": "Open"}
        self.order_counter += 1
        placed = {"order_type": order_type, "status": "Pending", "price": float(price)}
        return {"order_id": number, **placed, "amount": amount}

    def _get_order_details(self, order_id: int) -> Result:
        return dict(self._order(order_id))

    def _cancel_order(self, order_id: int) -> Result:
        order = self._order(order_id)
        require(order["status"] != "Completed", f"Order {order_id} is already completed.")
        order["status"] = "Cancelled"
        return {"order_id": order_id, "status": "Cancelled"}

    def _get_order_history(self) -> Result:
        self._require_login()
        return {"order_history": [key for key in self.orders if isinstance(key, int)]}

    def _get_transaction_history(
        self, start_date: str | None = None, end_date: str | None = None
    ) -> Result:
        self._require_login()
        first = "" if start_date in (None, "None") else str(start_date)
        last = "9999" if end_date in (None, "None") else str(end_date)
        kept = [t for t in self.transaction_history if first <= _day(t) <= last]
        return {"transaction_history": kept}

    def _get_watchlist(self) -> Result:
        self._require_login()
        return {"watchlist": list(self.watch_list)}

    def _add_to_watchlist(self, stock: str) -> Result:
        self._require_login()
        self._stock(stock)
        if stock not in self.watch_list:
            self.watch_list.append(stock)
        return {"watchlist": list(self.watch_list)}

    def _remove_stock_from_watchlist(self, symbol: str) -> Result:
        self._require_login()
        require(symbol in self.watch_list, f"Stock {symbol} not found in watchlist.")
        self.watch_list.remove(symbol)
        return {"status": f"Stock {symbol} removed from watchlist successfully."}


def _day(transaction: Result) -> str:
    return str(transaction.get("timestamp", ""))[:10]
