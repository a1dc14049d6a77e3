"""Operations of a model's life, each the real call of its library on a fresh instance; third parties may add theirs."""
