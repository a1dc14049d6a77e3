"""TIE6xx: rules on adapters, quantised and exported artefacts. They open only where one lies beside the model."""
