"""Tasks that models answer: multiple choice from a file, and the tasks of lm-eval."""
