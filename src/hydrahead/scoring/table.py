"""The table of scorers: one line per way to score heads, strings only."""

from hydrahead.core.tables import Table

SCORERS = Table(
    "scoring method",
    {
        "retrieval": "hydrahead.scoring.retrieval:RetrievalScorer",
        "counterfactual": "hydrahead.scoring.counterfactual:CounterfactualScorer",
        "substitution": "hydrahead.scoring.substitution:SubstitutionScorer",
        "random": "hydrahead.scoring.random_scores:RandomScorer",
    },
)
"""Method name -> its scorer (`scoring.contract.Scorer`)."""
