"""A small shop: orders as aggregates, stored with SQLAlchemy, telling what happened through the outbox.

domain.py    orders and their events; knows neither database nor broker
storage.py   which table an order lives in
service.py   the use cases, each one unit of work
__main__.py  `python -m examples.orders place --tenant acme --count 10`
"""
