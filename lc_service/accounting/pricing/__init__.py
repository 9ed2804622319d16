"""What attempts cost: list prices of their day, or prices of one's own; unknown is None, never 0."""

from lc_service.accounting.pricing.cost import ModelPrice, max_cost, price, set_price

__all__ = ["ModelPrice", "max_cost", "price", "set_price"]
