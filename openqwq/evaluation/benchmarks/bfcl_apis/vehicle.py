"""VehicleControlAPI: a car with doors, brakes, fuel, climate control, tyres and a map."""

from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import require

Result = dict[str, Any]
DOORS = ("driver", "passenger", "rear_left", "rear_right")
TIRES = tuple(f"{end}{side}TirePressure" for end in ("front", "rear") for side in ("Left", "Right"))
DEFAULTS: Result = {
    "fuelLevel": 10.0,
    "batteryVoltage": 12.6,
    "engineState": "stopped",
    "remainingUnlockedDoors": 4,
    "doorStatus": dict.fromkeys(DOORS, "unlocked"),
    "acTemperature": 25.0,
    "fanSpeed": 50,
    "acMode": "auto",
    "humidityLevel": 50.0,
    "headLightStatus": "off",
    "parkingBrakeStatus": "released",
    "parkingBrakeForce": 0.0,
    "slopeAngle": 0.0,
    "brakePedalStatus": "released",
    "brakePedalForce": 0.0,
    "distanceToNextVehicle": 50.0,
    "cruiseStatus": "inactive",
    "destination": "None",
    **dict.fromkeys(TIRES, 32.0),
}
TANK_GALLONS, MILES_PER_GALLON, LITERS = 50, 20, 3.78541
ZIPCODES = {
    "Rivermist": "83214",
    "Stonebrook": "74532",
    "Maplecrest": "56108",
    "Silverpine": "62947",
    "Shadowridge": "71354",
    "Sunset Valley": "48219",
    "Oakendale": "47329",
    "Willowbend": "55103",
    "Crescent Hollow": "69238",
    "Autumnville": "51047",
    "Pinehaven": "58642",
    "Greenfield": "45716",
    "San Francisco": "94016",
    "Los Angeles": "90001",
    "New York": "10001",
    "Chicago": "60007",
    "Boston": "02101",
}
KILOMETRES = {
    frozenset(("94016", "83214")): 980.0,
    frozenset(("94016", "62947")): 780.0,
    frozenset(("94016", "74532")): 880.0,
    frozenset(("83214", "74532")): 750.0,
    frozenset(("62947", "47329")): 1053.0,
}


class Vehicle:
    """All of a car's readings under the names that scenarios configure them by."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.car: Result = DEFAULTS | {"doorStatus": dict(DEFAULTS["doorStatus"])} | config
        self.car_info: Result = {}

    def _start_engine(self, ignition_mode: str) -> Result:
        require(ignition_mode in ("START", "STOP"), "ignitionMode must be START or STOP.")
        if ignition_mode == "START":
            locked = all(door == "locked" for door in self.car["doorStatus"].values())
            require(locked, "All doors must be locked before starting the engine.")
            require(self.car["fuelLevel"] > 0, "The fuel tank is empty.")
            pressed = self.car["brakePedalForce"] >= 1000.0
            require(pressed, "Press the brake pedal fully before starting the engine.")
        self.car["engineState"] = "running" if ignition_mode == "START" else "stopped"
        return self._read("engineState", "fuelLevel", "batteryVoltage")

    def _read(self, *names: str) -> Result:
        return {name: self.car[name] for name in names}

    def _fill_fuel_tank(self, fuel_amount: float) -> Result:
        require(fuel_amount >= 0, "Fuel amount cannot be negative.")
        level = self.car["fuelLevel"] + fuel_amount
        require(level <= TANK_GALLONS, f"The tank holds {TANK_GALLONS} gallons.")
        self.car["fuelLevel"] = float(level)
        return self._read("fuelLevel")

    def _lock_doors(self, unlock: bool, door: list[str]) -> Result:
        unknown = [name for name in door if name not in DOORS]
        require(not unknown, f"Doors are {', '.join(DOORS)}.")
        status = "unlocked" if unlock else "locked"
        self.car["doorStatus"] |= dict.fromkeys(door, status)
        remaining = sum(each == "unlocked" for each in self.car["doorStatus"].values())
        self.car["remainingUnlockedDoors"] = remaining
        return {"lockStatus": status, "remainingUnlockedDoors": remaining}

    def _adjust_climate_control(
        self, temperature: float, unit: str = "celsius", fan_speed: int = 50, mode: str = "auto"
    ) -> Result:
        require(unit in ("celsius", "fahrenheit"), "unit must be celsius or fahrenheit.")
        require(0 <= fan_speed <= 100, "fanSpeed must be from 0 to 100.")
        modes = ("auto", "cool", "heat", "defrost")
        require(mode in modes, f"mode must be one of {', '.join(modes)}.")
        celsius = (temperature - 32) * 5 / 9 if unit == "fahrenheit" else temperature
        self.car |= {"acTemperature": float(celsius), "fanSpeed": fan_speed, "acMode": mode}
        shown = {"currentTemperature": self.car["acTemperature"], "climateMode": mode}
        return {**shown, "humidityLevel": self.car["humidityLevel"]}

    def _get_outside_temperature_from_google(self) -> Result:
        return {"outsideTemperature": 21.5}

    def _get_outside_temperature_from_weather_com(self) -> Result:
        return {"outsideTemperature": 21.0}

    def _set_headlights(self, mode: str) -> Result:
        require(mode in ("on", "off", "auto"), "mode must be on, off or auto.")
        self.car["headLightStatus"] = "off" if mode == "off" else "on"
        return {"headlightStatus": self.car["headLightStatus"]}

    def _display_car_status(self, option: str) -> Result:
        car = self.car
        shown = {
            "fuel": {"fuelLevel": car["fuelLevel"]},
            "battery": {"batteryVoltage": car["batteryVoltage"]},
            "doors": {"doorStatus": car["doorStatus"]},
            "climate": {
                "currentACTemperature": car["acTemperature"],
                "fanSpeed": car["fanSpeed"],
                "climateMode": car["acMode"],
                "humidityLevel": car["humidityLevel"],
            },
            "headlights": {"headlightStatus": car["headLightStatus"]},
            "parkingBrake": self._read("parkingBrakeStatus", "parkingBrakeForce", "slopeAngle"),
            "brakePedal": self._read("brakePedalStatus", "brakePedalForce"),
            "engine": self._read("engineState", "fuelLevel", "batteryVoltage"),
        }
        require(option in shown, f"option must be one of {', '.join(shown)}.")
        return shown[option]

    def _activate_parking_brake(self, mode: str) -> Result:
        require(mode in ("engage", "release"), "mode must be engage or release.")
        engaged = mode == "engage"
        self.car["parkingBrakeStatus"] = "engaged" if engaged else "released"
        self.car["parkingBrakeForce"] = 500.0 if engaged else 0.0
        self.car["slopeAngle"] = 10.0 if engaged else 0.0
        return {
            "parkingBrakeStatus": self.car["parkingBrakeStatus"],
            "_parkingBrakeForce": self.car["parkingBrakeForce"],
            "_slopeAngle": self.car["slopeAngle"],
        }

    def _press_brake_pedal(self, pedal_position: float) -> Result:
        require(0 <= pedal_position <= 1, "pedalPosition must be from 0 to 1.")
        pressed = "pressed" if pedal_position else "released"
        self.car |= {"brakePedalStatus": pressed, "brakePedalForce": 1000.0 * pedal_position}
        return self._read("brakePedalStatus", "brakePedalForce")

    def _release_brake_pedal(self) -> Result:
        self.car |= {"brakePedalStatus": "released", "brakePedalForce": 0.0}
        return self._read("brakePedalStatus", "brakePedalForce")

    def _set_cruise_control(
        self, speed: float, activate: bool, distance_to_next_vehicle: float
    ) -> Result:
        require(self.car["engineState"] == "running", "Start the engine first.")
        require(0 <= speed <= 120 and speed % 5 == 0, "speed: 0 to 120, a multiple of 5.")
        self.car["cruiseStatus"] = "active" if activate else "inactive"
        self.car["distanceToNextVehicle"] = distance_to_next_vehicle
        shown = {"cruiseStatus": self.car["cruiseStatus"], "currentSpeed": float(speed)}
        return {**shown, "distanceToNextVehicle": distance_to_next_vehicle}

    def _get_current_speed(self) -> Result:
        return {"currentSpeed": 60.0 if self.car["engineState"] == "running" else 0.0}

    def _display_log(self, messages: list[str]) -> Result:
        return {"log": messages}

    def _check_tire_pressure(self) -> Result:
        mean = sum(self.car[tire] for tire in TIRES) / len(TIRES)
        healthy = {"healthy_tire_pressure": 30 <= mean <= 35}
        return {**self._read(*TIRES), **healthy, "car_info": self.car_info}

    def _find_nearest_tire_shop(self) -> Result:
        return {"shopLocation": "456 Oakwood Avenue, Rivermist, 83214"}

    def _get_zipcode_based_on_city(self, city: str) -> Result:
        return {"zipcode": ZIPCODES.get(city, "00000")}

    def _estimate_distance(self, city_a: str, city_b: str) -> Result:
        known = ZIPCODES.values()
        require(city_a in known and city_b in known, "Give the zip codes of two known cities.")
        apart = abs(int(city_a) - int(city_b)) / 50  # invented where no scenario names it
        return {"distance": KILOMETRES.get(frozenset((city_a, city_b)), apart)}

    def _estimate_drive_feasibility_by_mileage(self, distance: float) -> Result:
        return {"canDrive": distance <= self.car["fuelLevel"] * MILES_PER_GALLON}

    def _liter_to_gallon(self, liter: float) -> Result:
        return {"gallon": liter * 0.264172}

    def _gallon_to_liter(self, gallon: float) -> Result:
        return {"liter": gallon * LITERS}

    def _set_navigation(self, destination: str) -> Result:
        self.car["destination"] = destination
        return {"status": f"Navigating to {destination}"}
