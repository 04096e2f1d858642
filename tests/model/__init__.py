"""Files into models and back."""
