"""How fast the product is: what it is measured against, and how. Nothing else imports this package.

plain.py is the code that one would write without this project; ours.py calls the product to do the same; parts.py says
which of them meet; measure.py lets them take turns in processes of their own.
"""
