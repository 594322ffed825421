"""Six more ways to improve a policy from data, over one kind of episode and one kind of policy.

Three engines carry all six: an off-policy ensemble of critics (``soft_q``), supervised fitting
(``regress``) and the PPO that trains trackers. A recipe says what they are fed, in which order.
"""
