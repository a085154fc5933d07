"""TravelAPI: flights, credit cards, insurance and invoices of one traveller."""

from datetime import date
from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import require, seeded

Result = dict[str, Any]
AIRPORTS = {
    "Rivermist": "RMS", "Stonebrook": "SBK", "Maplecrest": "MPC", "Silverpine": "SVP",
    "Shadowridge": "SHD", "Paris": "CDG", "London": "LHR", "Sunset Valley": "SSV",
    "Oakendale": "OKD", "Willowbend": "WLB", "Beijing": "PEK", "Tokyo": "HND",
    "Hong Kong": "HKG", "Rome": "CIA", "Crescent Hollow": "CRH", "Autumnville": "ATV",
    "Pinehaven": "PHV", "Greenfield": "GFD", "San Francisco": "SFO", "Los Angeles": "LAX",
    "New York": "JFK", "Chicago": "ORD", "Boston": "BOS",
}  # fmt: skip
FARES = {
    ("RMS", "GFD"): 320, ("RMS", "LAX"): 330, ("RMS", "SBK"): 220, ("SFO", "LAX"): 200,
    ("JFK", "LAX"): 570, ("LAX", "JFK"): 600, ("SFO", "CIA"): 700, ("JFK", "PEK"): 1000,
    ("ORD", "SVP"): 380, ("SFO", "BOS"): 450, ("OKD", "LAX"): 220, ("LAX", "HND"): 430,
}  # fmt: skip
OTHER_FARE = 200
CLASSES = {"economy": 1, "business": 2, "first": 5}
PER_DOLLAR = {
    "USD": 1.0, "RMB": 7.0, "EUR": 0.8, "JPY": 110.0, "GBP": 0.7, "CAD": 1.3, "AUD": 1.4,
    "INR": 70.0, "RUB": 60.0, "BRL": 3.8, "MXN": 20.0,
}  # fmt: skip
TODAY = date(2026, 6, 1)
INVOICE = {  # documented field: names that configured bookings use for it
    "travel_date": ("date", "flight_date"),
    "travel_from": ("departure", "from"),
    "travel_to": ("destination", "arrival", "to"),
    "travel_class": ("class",),
    "travel_cost": ("price", "cost", "cost_usd"),
    "transaction_id": (),
}


class Travel:
    """Ids come from one seeded generator, so that the same calls make the same ids."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.credit_card_list: dict[str, Result] = config.get("credit_card_list", {})
        self.booking_record: dict[str, Result] = config.get("booking_record", {})
        self.access_token: str | None = config.get("access_token")
        self.token_type: str | None = config.get("token_type")
        self.token_expires_in: int | None = config.get("token_expires_in")
        self.token_scope: str | None = config.get("token_scope")
        self.user_first_name: str | None = config.get("user_first_name")
        self.user_last_name: str | None = config.get("user_last_name")
        self.budget_limit: float | None = config.get("budget_limit")
        self._ids = seeded(141053)

    def _number(self, digits: int) -> str:
        return str(self._ids.randint(10 ** (digits - 1), 10**digits - 1))

    def _require_token(self, token: str) -> None:
        require(self.token_expires_in, "Token not set or expired. Authenticate first.")
        require(token == self.access_token, "Invalid access token.")

    def _card(self, card_id: str) -> Result:
        require(card_id in self.credit_card_list, f"Card with ID {card_id} not found.")
        return self.credit_card_list[card_id]

    def _pay(self, card_id: str, cost: float) -> None:
        card = self._card(card_id)
        require(card.get("balance", 0.0) >= cost, "Insufficient balance on the card.")
        card["balance"] -= cost

    def _booking(self, booking_id: str) -> Result:
        require(booking_id in self.booking_record, f"Booking {booking_id} not found.")
        return self.booking_record[booking_id]

    def _authenticate_travel(
        self,
        client_id: str,
        client_secret: str,
        refresh_token: str,
        grant_type: str,
        user_first_name: str,
        user_last_name: str,
    ) -> Result:
        given = client_id, client_secret, refresh_token
        require(all(given), "Give client_id, client_secret and refresh_token.")
        scopes = ("read_write", "read", "write")
        require(grant_type in scopes, f"grant_type must be one of {', '.join(scopes)}.")
        self.access_token = self._number(6)
        self.token_type, self.token_expires_in, self.token_scope = "Bearer", 2, grant_type
        self.user_first_name, self.user_last_name = user_first_name, user_last_name
        token = {"expires_in": 2, "access_token": self.access_token}
        return {**token, "token_type": "Bearer", "scope": grant_type}

    def _travel_get_login_status(self) -> Result:
        return {"status": bool(self.token_expires_in)}

    def _get_nearest_airport_by_city(self, location: str) -> Result:
        return {"nearest_airport": AIRPORTS.get(location, "Unknown")}

    def _list_all_airports(self) -> list[str]:
        return list(AIRPORTS.values())

    def _get_flight_cost(
        self, travel_from: str, travel_to: str, travel_date: str, travel_class: str
    ) -> Result:
        known = AIRPORTS.values()
        require(travel_from in known and travel_to in known, "Unknown airport code.")
        require(travel_class in CLASSES, f"travel_class must be one of {', '.join(CLASSES)}.")
        date.fromisoformat(travel_date)
        fare = FARES.get((travel_from, travel_to), OTHER_FARE) * CLASSES[travel_class]
        even = sum(map(int, travel_date.replace("-", ""))) % 2 == 0  # half of the days cost double
        return {"travel_cost_list": [float(fare * (2 if even else 1))]}

    def _book_flight(
        self,
        access_token: str,
        card_id: str,
        travel_date: str,
        travel_from: str,
        travel_to: str,
        travel_class: str,
    ) -> Result:
        self._require_token(access_token)
        trip = {"travel_from": travel_from, "travel_to": travel_to, "travel_date": travel_date}
        affordable = self._card(card_id).get("balance", 0.0) >= (self.budget_limit or 0.0)
        require(affordable, "The card's balance is below the budget limit.")
        quote = self._get_flight_cost(**trip, travel_class=travel_class)
        (cost,) = quote["travel_cost_list"]
        self._pay(card_id, cost)
        booking_id, transaction_id = self._number(7), self._number(8)
        booked = {"card_id": card_id, **trip, "travel_class": travel_class, "travel_cost": cost}
        self.booking_record[booking_id] = {**booked, "transaction_id": transaction_id}
        ids = {"booking_id": booking_id, "transaction_id": transaction_id}
        return {**ids, "booking_status": True, "booking_history": {}}

    def _cancel_booking(self, access_token: str, booking_id: str) -> Result:
        self._require_token(access_token)
        booking = self._booking(booking_id)
        card = self.credit_card_list.get(booking.get("card_id", ""))
        if card is not None:
            card["balance"] += booking.get("travel_cost", 0.0)
        del self.booking_record[booking_id]
        return {"cancel_status": True}

    def _purchase_insurance(
        self,
        access_token: str,
        insurance_type: str,
        booking_id: str,
        insurance_cost: float,
        card_id: str,
    ) -> Result:
        self._require_token(access_token)
        booking = self._booking(booking_id)
        self._pay(card_id, insurance_cost)
        booking["insurance"] = {
            "insurance_id": self._number(9),
            "insurance_type": insurance_type,
            "insurance_cost": insurance_cost,
        }
        return {"insurance_id": booking["insurance"]["insurance_id"], "insurance_status": True}

    def _retrieve_invoice(
        self, access_token: str, booking_id: str | None = None, insurance_id: str | None = None
    ) -> Result:
        self._require_token(access_token)
        if booking_id in (None, "None"):
            insured = {
                record["insurance"]["insurance_id"]: name
                for name, record in self.booking_record.items()
                if "insurance" in record
            }
            require(insurance_id in insured, f"Insurance {insurance_id} not found.")
            booking_id = insured[insurance_id]
        name = str(booking_id)
        return {"invoice": {"booking_id": name, **_invoice(self._booking(name))}}

    def _get_booking_history(self, access_token: str) -> Result:
        self._require_token(access_token)
        history = {name: _invoice(record) for name, record in self.booking_record.items()}
        return {"booking_history": history}

    def _contact_customer_support(self, booking_id: str, message: str) -> Result:
        self._booking(booking_id)
        require(message, "Give a message.")
        text = "Thank you for contacting customer support. We will get back to you shortly."
        return {"customer_support_message": text}

    def _compute_exchange_rate(
        self, base_currency: str, target_currency: str, value: float
    ) -> Result:
        known = base_currency in PER_DOLLAR and target_currency in PER_DOLLAR
        require(known, f"Currencies are {', '.join(PER_DOLLAR)}.")
        rate = PER_DOLLAR[target_currency] / PER_DOLLAR[base_currency]
        return {"exchanged_value": round(value * rate, 2)}

    def _set_budget_limit(self, access_token: str, budget_limit: float) -> Result:
        self._require_token(access_token)
        self.budget_limit = float(budget_limit)
        return {"budget_limit": self.budget_limit}

    def _get_budget_fiscal_year(
        self, last_modified_after: str | None = None, include_removed: str | None = None
    ) -> Result:
        del last_modified_after, include_removed  # one fiscal year was never changed
        return {"budget_fiscal_year": "2026"}

    def _register_credit_card(
        self,
        access_token: str,
        card_number: str,
        expiration_date: str,
        cardholder_name: str,
        card_verification_number: int,
    ) -> Result:
        self._require_token(access_token)
        card_id = self._number(12)
        self.credit_card_list[card_id] = {
            "card_number": card_number,
            "expiration_date": expiration_date,
            "cardholder_name": cardholder_name,
            "card_verification_number": card_verification_number,
            "balance": float(round(self._ids.uniform(10_000, 99_999))),
        }
        return {"card_id": card_id}

    def _get_all_credit_cards(self) -> Result:
        return {"credit_card_list": self.credit_card_list}

    def _get_credit_card_balance(self, access_token: str, card_id: str) -> Result:
        self._require_token(access_token)
        return {"card_balance": self._card(card_id)["balance"]}

    def _verify_traveler_information(
        self, first_name: str, last_name: str, date_of_birth: str, passport_number: str
    ) -> Result:
        born = date.fromisoformat(date_of_birth)
        failure = ""
        if (first_name, last_name) != (self.user_first_name, self.user_last_name):
            failure = "The name does not match the account's."
        elif (TODAY.year - born.year) - ((TODAY.month, TODAY.day) < (born.month, born.day)) < 18:
            failure = "The traveller must be at least 18 years old."
        elif not passport_number.startswith("US"):
            failure = "Passport must be issued by the United States."
        verdict: Result = {"verification_status": not failure}
        return {**verdict, "verification_failure": failure} if failure else verdict


def _invoice(record: Result) -> Result:
    """A booking under the documented names, whatever a scenario calls its fields."""
    return {
        field: next((record[name] for name in (field, *others) if name in record), None)
        for field, others in INVOICE.items()
    }
