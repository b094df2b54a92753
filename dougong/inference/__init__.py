"""What a trained model is asked: predictions for rows, and text written step by step."""
