"""What a network learns from: data, conditions, losses, trainers; and what is measured."""
