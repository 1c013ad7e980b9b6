"""What a person sees: tables, progress, figures."""
