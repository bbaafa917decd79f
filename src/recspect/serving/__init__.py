"""The online server: recommendations over HTTP from a recommender's folder and a store of events.

Every request is answered: where a model, the store or the log of what was shown is down, the answer says so and is made of what is left.
"""
