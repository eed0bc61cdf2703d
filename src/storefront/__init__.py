"""The bundled application: orders, and everything that should follow when one is confirmed.

Uses the public API of Headrace only, as any application would. Importing it does nothing; `storefront.application`
lists what it declares.
"""
